"""Pictures through a network: `tiles` cuts and joins, `image` upscales arrays and files."""
