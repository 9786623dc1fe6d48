"""The endings of image files: those of `torchvision.datasets.folder`, which takes seconds to import."""

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
