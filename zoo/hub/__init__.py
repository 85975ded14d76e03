"""What comes in and goes out: catalogue, weights, conversion, export, the files of other projects."""
