"""A page with a text box and a button, inlined as HTML. The hub brings the endpoint: nothing else to write.

    REDIS_URL=redis://localhost uvicorn examples.tutorial.page:app --workers 4

Then open http://localhost:8000 in two windows.
"""

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from hub import Hub

hub = Hub()
app = FastAPI()
app.include_router(hub.router, prefix="/rt")

PAGE = """<!DOCTYPE html>
<html lang="en">
  <meta charset="utf-8">
  <title>Chat</title>
  <h1>Chat</h1>
  <form>
    <input aria-label="Message" autocomplete="off" autofocus required>
    <button>Send</button>
  </form>
  <ul></ul>
  <script>
    const [form, input, list] = ["form", "input", "ul"].map((name) => document.querySelector(name));
    const ws = new WebSocket(location.origin.replace("http", "ws") + "/rt/ws/lobby");
    ws.onmessage = (event) => {
      list.append(Object.assign(document.createElement("li"), { textContent: event.data }));
    };
    form.onsubmit = (event) => {
      event.preventDefault();
      ws.send(input.value);
      form.reset();
    };
  </script>
</html>
"""


@app.get("/", response_class=HTMLResponse)
async def page():
    return PAGE
