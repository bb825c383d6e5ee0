"""The world: scenarios, days, the compiled engine, reward, observation, KPIs and rendering."""
