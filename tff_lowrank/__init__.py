"""Communication-efficient federated learning with low-rank models and compressed updates.

The packages, in the order of a round: `datasets`, `layers`, `models`, `tasks`, `client_work`,
`codecs`, `freezing`, `aggregators`, `learning`, `client_state`, `simulation`; `execution` runs
TFF computations; `methods`, `runs`, `reports`, `analysis` and `cli` are for experiments. Import
them by name, for example `from tff_lowrank import aggregators, codecs`; `import tff_lowrank` alone
does not load TensorFlow.
"""

__version__ = '0.1.0'
