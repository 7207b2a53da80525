"""Trees of plain data as text for a terminal and as HTML for a notebook; knows no SAE."""

from hsae_hub.render.html import render_html as render_html
from hsae_hub.render.nodes import Block as Block
from hsae_hub.render.nodes import Part as Part
from hsae_hub.render.nodes import Row as Row
from hsae_hub.render.nodes import Tree as Tree
from hsae_hub.render.text import display_width as display_width
from hsae_hub.render.text import render_text as render_text
from hsae_hub.render.text import visible as visible
