"""Small programs to copy from: `hub serve --examples`, or each by itself with `uvicorn hub.examples.chat.app:app`."""
