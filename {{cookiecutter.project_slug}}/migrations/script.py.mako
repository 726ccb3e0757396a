<%
    import re

    steps = context.get("upgrades", "") + context.get("downgrades", "")
    is_by_hand = not steps and not isinstance(down_revision, tuple)
    uses = lambda name: is_by_hand or re.search(rf"\b{name}\.", steps)
%>\
"""${message.replace("\\", "\\\\").replace('"', '\\"')}"""

% if uses("sa"):
import sqlalchemy as sa
% endif
% if uses("op"):
from alembic import op
% endif
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
