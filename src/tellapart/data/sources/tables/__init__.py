"""Tables of images: manifests of paths, and Parquet files with the images inside."""
