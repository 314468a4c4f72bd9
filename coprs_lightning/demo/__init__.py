"""`coprs demo`: a page in the browser that asks a model about images. Gradio (extra `demo`) is imported inside only."""
