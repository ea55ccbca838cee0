"""Writes payments into a template's syntax tree, so that a sandbox can count what a run costs.

A payment is a call of one of four filters, which the sandbox has to provide:

    STEPS   takes a number of steps, when a body is entered
    TEXT    takes a value that becomes text
    READ    takes a value that is about to be compared, or to be a key
    MADE    takes a value that was just made

Knows nothing about prices beyond how many steps a piece of source is.
"""

from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.visitor import NodeTransformer

STEPS, TEXT, READ, MADE = "_steps", "_text", "_read", "_made"

CALL_STEPS = 10  # a call, or a round of a loop, takes about ten times as long as a node of the syntax tree
CHARS_PER_STEP = 16  # copying or searching this much text is as cheap as a step
BRANCH_STEPS = 64  # a smaller branch is not worth a payment of its own


def meter(tree: nodes.Template) -> None:
    """Changes the tree in place. Raises TemplateSyntaxError for what cannot be metered: blocks and other templates."""
    _Pricer().visit(tree)
    _meter_bodies(tree)


class _Pricer(NodeTransformer):
    """Writes payments into the expressions for which Jinja asks nothing of the environment."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if isinstance(node, nodes.Block | nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport):
            raise TemplateSyntaxError("it has blocks, or loads other templates", node.lineno)
        self.generic_visit(node)
        match node:
            case nodes.Concat():
                node.nodes = [_filter(part, TEXT) for part in node.nodes]
            case nodes.Compare() | nodes.Operand():
                node.expr = _filter(node.expr, READ)
            case nodes.Pair():
                node.key = _filter(node.key, READ)
            case nodes.Getitem(arg=nodes.Slice()):
                return _filter(node, MADE)
        return node


def _filter(node: nodes.Expr, name: str) -> nodes.Expr:
    if isinstance(node, nodes.Const):  # as long as the source wrote it
        return node
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _meter_bodies(node: nodes.Node) -> int:
    """Writes payments into the bodies below a node; returns the steps that the code around it has to pay for.

    Loops, macros and large branches pay for their nodes and text when they are entered. Small branches are paid for
    with the code around them, taken or not.
    """
    steps = 1 + (len(node.data) // CHARS_PER_STEP if isinstance(node, nodes.TemplateData) else 0)
    for field, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        inner = sum(_meter_bodies(child) for child in children if isinstance(child, nodes.Node))
        if field == "body" and isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            value.insert(0, nodes.ExprStmt(_payment(CALL_STEPS + inner, node), lineno=node.lineno))
        elif field in ("body", "else_") and isinstance(node, nodes.If) and inner > BRANCH_STEPS:
            value.insert(0, nodes.ExprStmt(_payment(inner, node), lineno=node.lineno))
        elif field == "test" and isinstance(node, nodes.For) and inner:  # the body does not see the items this drops
            node.test = nodes.And(_payment(inner, node), value, lineno=node.lineno)
        else:
            steps += inner
    return steps


def _payment(steps: int, node: nodes.Node) -> nodes.Expr:
    return nodes.Filter(nodes.Const(steps), STEPS, [], [], None, None, lineno=node.lineno)
