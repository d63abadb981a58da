"""Images in: folders of domains, splits, transforms and batches."""
