"""Communication-efficient federated learning with low-rank and recycled updates.

The rooms, in the order of a round: `datasets`, `layers`, `models`, `tasks`, `client_work`,
`codecs`, `freezing`, `aggregators`, `learning`, `client_state`, `simulation`; what runs it,
`execution`; and whole experiments: `methods`, `runs`, `reports`, `analysis`, `cli`. Import them by
name, for example `from tff_lowrank import aggregators, codecs`; importing `tff_lowrank` alone loads
nothing heavy.
"""

__version__ = '0.1.0'
