"""Take an algorithm of a run away: as a merged model, one Python file, a mergekit recipe; or the preference pairs."""
