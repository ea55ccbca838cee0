"""The names that a request's model reads, as the tables of parameters list them."""

from pydantic import AliasChoices, BaseModel


def names_of(model: type[BaseModel]) -> set[str]:
    """Of all fields, with every other spelling."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        names.update(str(choice) for choice in choices)
    return names
