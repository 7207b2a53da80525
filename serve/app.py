"""A Hugging Face Space: the page of `hsae demo` for the SAE in `sae/`, or for the embedded one."""

from hsae_hub.demo.space import run

run()
