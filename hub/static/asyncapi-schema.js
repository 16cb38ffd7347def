// JSON Schemas as tables that people read.

import { element } from "./render.js";

const MOST_MODELS = 30;

const nameOf = (reference) => reference.split("/").pop();

// Any schema in one line: `string`, `Author[]`, `"a" | "b"`.
export function typeText(schema) {
  if (typeof schema !== "object" || schema === null) return schema === false ? "nothing" : "anything";
  if (schema.$ref) return nameOf(schema.$ref);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.map(typeText).join(" | ");
  if (schema.allOf) return schema.allOf.map(typeText).join(" & ");
  if (Array.isArray(schema.type)) return schema.type.join(" | ");
  if (schema.type === "array") return arrayText(schema);
  if (schema.type === "object") return objectText(schema);
  return [schema.type ?? "anything", schema.format && `(${schema.format})`].filter(Boolean).join(" ");
}

function arrayText({ items, additionalItems }) {
  if (!Array.isArray(items)) return listOf(typeText(items ?? true));
  const rest = additionalItems ? [`...${listOf(typeText(additionalItems))}`] : [];
  return `[${[...items.map(typeText), ...rest].join(", ")}]`;
}

const listOf = (text) => (/[ |&]/.test(text) ? `(${text})[]` : `${text}[]`);

function objectText({ properties, additionalProperties }) {
  if (properties) return `{ ${Object.keys(properties).join(", ")} }`;
  return `{ [name]: ${typeText(additionalProperties ?? true)} }`;
}

// What a value must be besides its type.
function bounds({ minLength, maxLength, minimum, maximum, exclusiveMinimum, exclusiveMaximum, minItems, maxItems, pattern, multipleOf }) {
  const said = [
    minLength !== undefined && `at least ${many(minLength, "character")}`,
    maxLength !== undefined && `at most ${many(maxLength, "character")}`,
    minimum !== undefined && `≥ ${minimum}`,
    exclusiveMinimum !== undefined && `> ${exclusiveMinimum}`,
    maximum !== undefined && `≤ ${maximum}`,
    exclusiveMaximum !== undefined && `< ${exclusiveMaximum}`,
    multipleOf !== undefined && `a multiple of ${multipleOf}`,
    minItems !== undefined && `at least ${many(minItems, "item")}`,
    maxItems !== undefined && `at most ${many(maxItems, "item")}`,
    pattern !== undefined && `matches ${pattern}`,
  ];
  return said.filter(Boolean).join(", ");
}

const many = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

function remarks(schema) {
  const preset = schema.default === undefined || schema.default === null ? "" : `${JSON.stringify(schema.default)} by default`;
  return [schema.description, bounds(schema), preset].filter(Boolean);
}

// A table for each model that `schema` leads to.
export function schemaTables(schema, schemas) {
  const found = new Map();
  collect(schema, schemas, found);
  const tables = [...found].slice(0, MOST_MODELS).map(([name, model]) => modelTable(name, model));
  if (schema.$ref) return tables;
  const text = element("p", {}, element("code", {}, typeText(schema)));
  return [text, ...(schema.properties ? [modelTable(schema.title ?? "", schema)] : []), ...tables];
}

function collect(schema, schemas, found) {
  if (typeof schema !== "object" || schema === null) return;
  if (Array.isArray(schema)) return schema.forEach((each) => collect(each, schemas, found));
  const name = schema.$ref && nameOf(schema.$ref);
  if (name && !found.has(name) && schemas[name]) {
    found.set(name, schemas[name]);
    collect(schemas[name], schemas, found);
  }
  const { properties = {}, patternProperties = {}, items, additionalItems, additionalProperties, propertyNames, anyOf, oneOf, allOf } = schema;
  const inner = [items, additionalItems, additionalProperties, propertyNames, anyOf, oneOf, allOf];
  collect([...Object.values(properties), ...Object.values(patternProperties), ...inner], schemas, found);
}

function modelTable(name, schema) {
  const caption = element("caption", {}, name);
  if (schema.description) caption.append(element("span", { className: "note" }, schema.description));
  const table = element("table", { className: "model" }, caption);
  if (!schema.properties) {
    caption.append(element("span", { className: "note" }, element("code", {}, typeText(schema))));
    return table;
  }
  const head = ["Field", "Type"].map((text) => element("th", { scope: "col" }, text));
  const rows = Object.entries(schema.properties).map(([field, inner]) => row(field, inner, schema.required ?? []));
  table.append(element("thead", { className: "hidden" }, element("tr", {}, ...head)), element("tbody", {}, ...rows));
  return table;
}

function row(field, schema, required) {
  const name = element("th", { scope: "row" }, field);
  if (required.includes(field)) {
    const star = element("span", { className: "required", title: "required", ariaHidden: "true" }, " *");
    name.append(star, element("span", { className: "hidden" }, "required"));
  }
  const type = element("td", {}, element("code", {}, typeText(schema)));
  for (const text of remarks(schema)) type.append(element("span", { className: "note" }, text));
  return element("tr", {}, name, type);
}
