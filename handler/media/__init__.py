"""Images and sounds of requests: where their bytes come from, and what bounds them before they are decoded."""
