"""The built-in miniature world: invented languages, their text and tasks, and a small pretrained encoder."""
