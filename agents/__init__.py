"""The search methods, by name.

Adding one takes a file here with a class that has ``search(task)``, and a line in ``AGENTS``.
"""

AGENTS: dict[str, str] = {
    "ddpg": "agents.ddpg:DDPGAgent",
    "td3": "agents.td3:TD3Agent",
    "sac": "agents.sac:SACAgent",
    "tqc": "agents.tqc:TQCAgent",
    "crossq": "agents.crossq:CrossQAgent",
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
