"""Code words: the 256 words of typed codes. The list is a format: it never changes, another would replace it.

Chosen so that a code survives being read out over a telephone and typed on a foreign keyboard: four to eight
letters of plain ASCII, known to children, nothing that sounds like another word of English or could hurt
somebody; no two begin with the same four letters or are one typing mistake apart.
"""

from __future__ import annotations

_WORDS = """
acorn album alpine anchor apple apricot arcade arrow artist aspen atlas attic avocado bakery bamboo barley
bathtub beacon beaver bedrock bicycle biscuit blanket blossom bobcat bonfire bottle breeze bridge bucket
buffalo bumper butter cactus camera canoe caramel castle cedar cheese cherry chimney cinema circus clover
cobalt coconut coffee comet compass copper cotton cougar coyote crater crystal cupboard curtain cushion
dahlia denim diamond doctor dolphin domino donkey dragon drummer eagle eclipse elevator emerald engine
envelope equator fabric falcon feather fiddle firefly flamingo forest fossil fountain fresco gadget galaxy
gallery garage garden garlic gazelle gecko giraffe glacier goblet gondola granite grotto guitar habitat
harbor harvest hedgehog helmet hillside hotel iceberg igloo indigo island jaguar jasmine jigsaw journal
jungle juniper kangaroo kayak kettle keyboard kitchen koala lantern lavender lemonade leopard lettuce
library lifeboat linen lobster lotus machine magnet magpie marigold meadow melon mercury midnight mirror
mitten molecule morning mosaic muffin museum mushroom nebula necklace nectar nephew nomad notebook nugget
nutmeg oasis oatmeal obelisk ocean octopus olive onion opera orange ostrich oxygen palace papaya parrot
peacock pebble pelican pencil pepper piano picnic pilot pirate plaza popcorn portrait prairie pumpkin puzzle
pyramid quilt rabbit radish railway rainbow recipe ribbon river rodeo rosemary ruby saffron sailor salad
salmon satchel scooter seagull seaside sesame shovel shuttle sleeve spinach spruce stadium sugar summit
sunset sweater syrup tadpole talent tango teapot temple tennis thimble toast tomato topaz tornado tractor
treasure trumpet tulip tundra turtle umbrella unicorn utensil vanilla velvet violet volcano voyage vulture
waffle walnut whisper widget willow winter wizard wombat yogurt zebra zephyr zigzag
"""

CODE_WORDS: tuple[str, ...] = tuple(_WORDS.split())
