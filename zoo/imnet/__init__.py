"""IM-NET: shapes as implicit fields (Chen & Zhang, CVPR 2019)."""

from zoo.imnet.cnnae import CNNAE
from zoo.imnet.imae import IMAE
from zoo.imnet.imgan import IMGAN
from zoo.imnet.imsvr import IMSVR

__all__ = ["CNNAE", "IMAE", "IMGAN", "IMSVR"]
