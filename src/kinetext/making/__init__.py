"""Making clips: what is asked for becomes plans, plans become clips, window by window."""

from kinetext.making.latents import LatentsWarning
from kinetext.making.maker import Clip, Maker, Stream, machine
from kinetext.making.planning import plan_between, plans
from kinetext.making.requests import File, Plan, Request

__all__ = ["Clip", "File", "LatentsWarning", "Maker", "Plan", "Request", "Stream", "machine", "plan_between", "plans"]
