"""Speaker embeddings of whole corpora, from a data directory or shards to ark/scp.

One way through: a source gives waveforms (sources), speech is cut out of them and crops are taken
(loading), they go through the model in batches of similar length (embedder), on one device, in
processes on a CPU (processes) or in the processes of torchrun (ranks), in parts that are kept when
the run is stopped (parts), and the parts are joined (run).
"""

from __future__ import annotations

from wesp_lap.extraction.loading import ExtractionSettings
from wesp_lap.extraction.run import extract
from wesp_lap.extraction.sources import open_source

__all__ = ["ExtractionSettings", "extract", "open_source"]
