"""What data modules share: order of items, loaders, readers."""
