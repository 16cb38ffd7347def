"""A whiteboard."""
