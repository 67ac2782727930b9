# mypy: ignore-errors
# It runs in the peer's own environment, whose packages ours does not have.
"""A graph of three steps for LangGraph's development server."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """What the steps hand on."""

    text: str
    size: int
    output: str


async def plan(state: State) -> State:
    """The first step."""
    return {"text": state["text"].upper()}


async def act(state: State) -> State:
    """The second step."""
    return {"size": len(state["text"])}


async def answer(state: State) -> State:
    """The third step."""
    return {"output": f"{state['text']} {state['size']}"}


def make_graph() -> object:
    """Return the compiled graph."""
    builder = StateGraph(State)
    for step in (plan, act, answer):
        builder.add_node(step.__name__, step)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "act")
    builder.add_edge("act", "answer")
    builder.add_edge("answer", END)
    return builder.compile()
