from .pickles import maps_from_pickles as maps_from_pickles
from .pickles import maps_to_pickles as maps_to_pickles
from .pngs import maps_from_pngs as maps_from_pngs
from .pngs import maps_to_pngs as maps_to_pngs
from .reading import PublicMaps as PublicMaps
from .reading import read_public_maps as read_public_maps
