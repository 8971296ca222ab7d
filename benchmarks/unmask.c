/* What the engine unmasks payloads with, for a server that does nothing else; see peers/raw.py. */
#include "../src/wsproto_fast/_mask.h"

void unmask(unsigned char *data, size_t size, const unsigned char *key, size_t offset)
{
    ws_mask_in_place(data, size, key, offset);
}

void unmask_copy(unsigned char *out, const unsigned char *data, size_t size, const unsigned char *key, size_t offset)
{
    ws_mask_copy(out, data, size, key, offset);
}
