"""All-ranking evaluation, groups of users and items, and significance."""
