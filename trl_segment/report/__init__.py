"""Views of traces and stores for people."""
