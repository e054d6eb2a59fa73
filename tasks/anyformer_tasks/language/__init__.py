"""Published language data sets, and the tasks over them."""

from anyformer_tasks.language.choosing import Choosing
from anyformer_tasks.language.classification import TextClassification
from anyformer_tasks.language.documents import Documents
from anyformer_tasks.language.rating import Rating
from anyformer_tasks.language.reading import Reading
from anyformer_tasks.language.tagging import TokenLabels
from anyformer_tasks.language.text_to_text import TextToText

__all__ = ["Choosing", "Documents", "Rating", "Reading", "TextClassification", "TextToText", "TokenLabels"]
