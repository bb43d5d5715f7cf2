"""Paint from a corpus by ID. Nothing is here yet: the corpus comes first (see CHANGELOG.md)."""
