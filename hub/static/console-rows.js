// Rows that stay the same elements while their numbers change: the focus, a selection and the pointer stay where they are.

// `make` makes the element of an item, with a method `update(item)`.
export class Rows {
  constructor(parent, { key, make }) {
    Object.assign(this, { parent, key, make });
    this.nodes = new Map();
  }

  // In this order; or, with `held`, those that are there keep theirs and the others come behind.
  draw(items, held = false) {
    const wanted = new Map(items.map((item) => [this.key(item), item]));
    for (const [key, node] of this.nodes) if (!wanted.has(key)) this.drop(key, node);
    for (const [key, item] of wanted) {
      if (!this.nodes.has(key)) this.nodes.set(key, this.make(item));
      this.nodes.get(key).update(item);
    }
    this.arrange([...wanted.keys()].map((key) => this.nodes.get(key)), held);
  }

  drop(key, node) {
    node.remove();
    this.nodes.delete(key);
  }

  // An element that is moved loses the focus, so none is moved without need.
  arrange(nodes, held) {
    if (held) return this.parent.append(...nodes.filter((node) => !node.isConnected));
    nodes.forEach((node, index) => {
      if (this.parent.children[index] !== node) this.parent.insertBefore(node, this.parent.children[index] ?? null);
    });
  }
}

export function setCell(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}
