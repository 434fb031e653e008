"""The published data sets: what is in them, how the files are called, how the papers split them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """One published data set.

    Attributes:
        title: Its name for people.
        counts: Images per class; the class is spelled as in the file names.
        name_format: How an image is called, from ``label`` and ``number``.
        first_number: The number of each class's first image.
        suffixes: How the file names end.
        side: The usual height and width in pixels.
        odd: Images of another height or width.
        layout: Where the images lie in the archive, for messages.
        ratio: Training to test images in each class, as in the paper.
        known_test: Images known to be in the authors' test set.
        archive_bytes: Size of the published archive, if known.
        archive_md5: Its MD5 sum, if known.
    """

    title: str
    counts: Mapping[str, int]
    name_format: str
    first_number: int
    suffixes: tuple[str, ...]
    side: int
    odd: int
    layout: str
    ratio: tuple[int, int]
    known_test: tuple[str, ...]
    archive_bytes: int | None = None
    archive_md5: str | None = None

    def names(self) -> dict[str, list[str]]:
        """Class to image names, in order of their numbers."""
        return {
            label: [self.name_format.format(label=label, number=self.first_number + i) for i in range(count)]
            for label, count in self.counts.items()
        }


def class_of(name: str) -> str:
    """Scene class of an image: its name without its digits, as in agricultural85, airport_1. May be empty."""
    return re.sub(r'\d+', '', name).strip('_- .')


_UCMERCED_CLASSES = (
    'agricultural', 'airplane', 'baseballdiamond', 'beach', 'buildings', 'chaparral', 'denseresidential', 'forest',
    'freeway', 'golfcourse', 'harbor', 'intersection', 'mediumresidential', 'mobilehomepark', 'overpass', 'parkinglot',
    'river', 'runway', 'sparseresidential', 'storagetanks', 'tenniscourt',
)

CATALOGUES = {
    'ucmerced': Catalogue(
        title='UCMerced Land Use',
        counts=dict.fromkeys(_UCMERCED_CLASSES, 100),
        name_format='{label}{number:02d}',
        first_number=0,
        suffixes=('.tif', '.tiff'),
        side=256,
        odd=44,
        layout='UCMerced_LandUse/Images/<class>/<class>NN.tif',
        ratio=(3, 1),
        known_test=('agricultural85', 'tenniscourt98'),
        archive_bytes=332_468_434,
        archive_md5='5b7ec56793786b6dc8a908e8854ac0e4',
    ),
    'aid': Catalogue(
        title='AID',
        counts={
            'airport': 360, 'bareland': 310, 'baseballfield': 220, 'beach': 400, 'bridge': 360, 'center': 260,
            'church': 240, 'commercial': 350, 'denseresidential': 410, 'desert': 300, 'farmland': 370, 'forest': 250,
            'industrial': 390, 'meadow': 280, 'mediumresidential': 290, 'mountain': 340, 'park': 350, 'parking': 390,
            'playground': 370, 'pond': 420, 'port': 380, 'railwaystation': 260, 'resort': 290, 'river': 410,
            'school': 300, 'sparseresidential': 300, 'square': 330, 'stadium': 290, 'storagetanks': 360,
            'viaduct': 420,
        },
        name_format='{label}_{number}',
        first_number=1,
        suffixes=('.jpg', '.jpeg'),
        side=600,
        odd=0,
        layout='AID/<Class>/<class>_<n>.jpg',
        ratio=(4, 1),
        known_test=('railwaystation_127', 'stadium_192'),
    ),
}  # AID's counts: Table 1 of Xia et al., "AID: A benchmark data set for performance evaluation", TGRS 2017
