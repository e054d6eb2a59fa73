"""Speech and other sound from published sets: what is said, and what it is."""

from anyformer_tasks.sound.classification import SoundClassification
from anyformer_tasks.sound.recognition import SpeechRecognition
from anyformer_tasks.sound.transcription import Transcription

__all__ = ["SoundClassification", "SpeechRecognition", "Transcription"]
