"""Training runs: the loop, checkpoints, and the folder that a run leaves behind."""

from hsae_hub.training.events import Event as Event
from hsae_hub.training.events import OnEvent as OnEvent
from hsae_hub.training.run import TrainResult as TrainResult
from hsae_hub.training.run import train as train
from hsae_hub.training.stats import latent_tables as latent_tables
from hsae_hub.training.trainer import Trainer as Trainer
from hsae_hub.training.trainer import batch_metrics as batch_metrics
