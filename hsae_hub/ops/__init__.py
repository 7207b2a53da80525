"""Pure functions on tensors: sparse products, penalties, constraints."""

from hsae_hub.ops.batch_topk import BatchActs as BatchActs
from hsae_hub.ops.batch_topk import batch_top_k as batch_top_k
from hsae_hub.ops.batch_topk import rows_by_bag as rows_by_bag
from hsae_hub.ops.batch_topk import track_threshold_ as track_threshold_
from hsae_hub.ops.constraints import normalize_rows_ as normalize_rows_
from hsae_hub.ops.constraints import project_out_rows_ as project_out_rows_
from hsae_hub.ops.dead import find_dead_ as find_dead_
from hsae_hub.ops.dead import revival_loss as revival_loss
from hsae_hub.ops.gradients import clip_groups_ as clip_groups_
from hsae_hub.ops.gradients import normalize_together_ as normalize_together_
from hsae_hub.ops.jump import jump_relu as jump_relu
from hsae_hub.ops.jump import step_through as step_through
from hsae_hub.ops.kernels import top_k as top_k
from hsae_hub.ops.parts import count_parts as count_parts
from hsae_hub.ops.penalties import cross_orthogonality as cross_orthogonality
from hsae_hub.ops.similar import similar_pairs as similar_pairs
from hsae_hub.ops.sparse import block_dot as block_dot
from hsae_hub.ops.sparse import block_sum as block_sum
from hsae_hub.ops.sparse import weighted_rows as weighted_rows
from hsae_hub.ops.stored import ALIGNED as ALIGNED
from hsae_hub.ops.stored import StoredTable as StoredTable
from hsae_hub.ops.stored import empty_blocks as empty_blocks
from hsae_hub.ops.topk_linear import topk_linear as topk_linear
from hsae_hub.ops.whitening import Whitening as Whitening
from hsae_hub.ops.whitening import whitening as whitening
