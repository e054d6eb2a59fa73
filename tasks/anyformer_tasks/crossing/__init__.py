"""Tasks in which one modality finds another, or tells what is in it."""

from anyformer_tasks.crossing.codes import Drawing, PictureCoding
from anyformer_tasks.crossing.pictures import Captioning, PictureRetrieval
from anyformer_tasks.crossing.sounds import Bridge, SoundRetrieval

__all__ = ["Bridge", "Captioning", "Drawing", "PictureCoding", "PictureRetrieval", "SoundRetrieval"]
