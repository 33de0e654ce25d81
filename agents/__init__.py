"""The search methods, by name.

Adding one takes a file here with a class that has ``search(task)``, and a line in ``AGENTS``.
"""

AGENTS: dict[str, str] = {
    "ddpg": "agents.ddpg:DDPGAgent",
    "netadapt": "agents.netadapt:NetAdaptAgent",
    "uniform": "agents.uniform:UniformAgent",
    "random_search": "agents.random_search:RandomSearchAgent",
    "analytic": "agents.analytic:AnalyticAgent",
    "evolution": "agents.evolution:EvolutionAgent",
    "shallow": "agents.sloped:ShallowAgent",
    "deep": "agents.sloped:DeepAgent",
    "sensitivity": "agents.sensitivity:SensitivityAgent",
    "greedy": "agents.greedy:GreedyAgent",
    "knapsack": "agents.knapsack:KnapsackAgent",
    "tpe": "agents.tpe:TPEAgent",
    "cma_es": "agents.cma_es:CMAESAgent",
    "gp": "agents.gp:GPAgent",
}
