"""Trees and pages of plain data as text for a terminal and as HTML for a notebook; knows no SAE."""

from hsae_hub.render.html import render_html as render_html
from hsae_hub.render.nodes import Block as Block
from hsae_hub.render.nodes import Part as Part
from hsae_hub.render.nodes import Row as Row
from hsae_hub.render.nodes import Tree as Tree
from hsae_hub.render.page import Context as Context
from hsae_hub.render.page import Contexts as Contexts
from hsae_hub.render.page import Histogram as Histogram
from hsae_hub.render.page import Mark as Mark
from hsae_hub.render.page import Page as Page
from hsae_hub.render.page import Pairs as Pairs
from hsae_hub.render.page import Section as Section
from hsae_hub.render.page import Tile as Tile
from hsae_hub.render.page import Tiles as Tiles
from hsae_hub.render.page_html import html_document as html_document
from hsae_hub.render.page_html import page_html as page_html
from hsae_hub.render.page_text import page_text as page_text
from hsae_hub.render.table import table as table
from hsae_hub.render.text import display_width as display_width
from hsae_hub.render.text import render_text as render_text
from hsae_hub.render.text import visible as visible
