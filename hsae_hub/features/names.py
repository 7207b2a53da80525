"""Where an index lies."""

FOLDER = "features"
"""Where an SAE's folder keeps its index."""
INDEX = "index.json"
"""Without it there is no index; written last."""
