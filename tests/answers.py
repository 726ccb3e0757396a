"""Answers that a template has to survive."""

ODD_ANSWERS = {
    "plain": "My Service",
    "double quotes": 'The "Best" Service',
    "single quotes": "Ada's Service",
    "both quotes": """Ada's "Best" 'Service'""",
    "backslashes": "C:\\new\\table \\",
    "hashes": "# C# and #1 #",
    "percent and dollar": "100 % for $5 ${HOME} $$ %s %(x)s",
    "non-ASCII": "Möbel für 日本 🚀",
    "markup": "<b>*bold*</b> _under_ [link](x) `code` & |",
    "braces": "{a} } { {0}",
}
