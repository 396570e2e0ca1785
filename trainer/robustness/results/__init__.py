"""Reports of an evaluation: Markdown, plots, model card, record and regression gate."""
