"""Tools behind `ToolPort`, and the registry that guards every call of one."""
