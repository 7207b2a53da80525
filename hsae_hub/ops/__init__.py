"""Pure functions on tensors: sparse products, penalties, constraints."""

from hsae_hub.ops.constraints import normalize_rows_ as normalize_rows_
from hsae_hub.ops.constraints import project_out_rows_ as project_out_rows_
from hsae_hub.ops.penalties import cross_orthogonality as cross_orthogonality
from hsae_hub.ops.sparse import pair_dot as pair_dot
from hsae_hub.ops.sparse import weighted_rows as weighted_rows
