"""Pictures: with classes, with masks, and files of generated ones."""

CLASSES = {
    "ActiveGeneration": "active_generation",
    "Digits": "digits",
    "MNIST": "digits",
    "ImageCaptions": "captions",
    "ImageFolder": "image_folder",
    "LabelledImages": "labelled",
    "Saliency": "saliency",
    "SaliencyComposites": "composites",
    "SampleFiles": "samples",
}
"""Public data modules -> the module of this package that defines them."""
