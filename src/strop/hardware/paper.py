"""Speed-ups that Sarma et al. (NeurIPS 2021) measured on a TITAN V, Tables 1 to 3, by phase."""

from strop.hardware.products import Phase
from strop.hardware.settings import Dropout

#: By network and dropout. The German-English column of Table 2 stands for translation.
MEASURED: dict[tuple[str, Dropout], dict[Phase, float]] = {
    ("zaremba-medium", "nr-st"): {"fp": 1.29, "bp": 1.01, "wg": 1.42},
    ("zaremba-medium", "nr-rh-st"): {"fp": 1.66, "bp": 1.10, "wg": 1.57},
    ("zaremba-large", "nr-st"): {"fp": 1.47, "bp": 1.09, "wg": 1.31},
    ("zaremba-large", "nr-rh-st"): {"fp": 2.45, "bp": 1.28, "wg": 1.41},
    ("awd-lstm", "nr-rh-st"): {"fp": 1.63, "bp": 1.04, "wg": 1.53},
    ("nmt-luong", "nr-st"): {"fp": 1.17, "bp": 1.13, "wg": 1.22},
    ("nmt-luong", "nr-rh-st"): {"fp": 1.35, "bp": 1.17, "wg": 1.45},
    ("ner-bilstm", "nr-st"): {"fp": 1.43, "bp": 1.06, "wg": 1.18},
    ("ner-bilstm", "nr-rh-st"): {"fp": 1.70, "bp": 1.20, "wg": 1.32},
}
#: The whole of a training's three phases.
OVERALL: dict[tuple[str, Dropout], float] = {
    ("zaremba-medium", "nr-st"): 1.17,
    ("zaremba-medium", "nr-rh-st"): 1.45,
    ("zaremba-large", "nr-st"): 1.27,
    ("zaremba-large", "nr-rh-st"): 1.64,
    ("awd-lstm", "nr-rh-st"): 1.38,
    ("nmt-luong", "nr-st"): 1.17,
    ("nmt-luong", "nr-rh-st"): 1.31,
    ("ner-bilstm", "nr-st"): 1.21,
    ("ner-bilstm", "nr-rh-st"): 1.39,
}
