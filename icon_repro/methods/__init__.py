"""Selection methods: candidates to scores by id. One module a method."""
