"""F5-TTS voice cloning as a RunPod serverless worker, with its weights cached in an S3-compatible bucket."""

__version__ = "0.1.0"
