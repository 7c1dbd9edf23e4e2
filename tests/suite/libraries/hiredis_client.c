/* A C program's use of hiredis: blocking calls, no threads, no word of coroutines. */

#include <hiredis/hiredis.h>
#include <string.h>

void *client_open(const char *host, int port) {
    redisContext *context = redisConnect(host, port);
    if (context != NULL && context->err) {
        redisFree(context);
        return NULL;
    }
    return context;
}

/* Waits for an element of the list; copies it to `answer` and returns its length, or -1. */
long client_pop(void *client, const char *list, char *answer, unsigned long room) {
    redisReply *reply = redisCommand(client, "BLPOP %s 0", list);
    long length = -1;
    if (reply != NULL && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
        (unsigned long)reply->element[1]->len <= room) {
        length = (long)reply->element[1]->len;
        memcpy(answer, reply->element[1]->str, (unsigned long)length);
    }
    if (reply != NULL) {
        freeReplyObject(reply);
    }
    return length;
}

void client_close(void *client) { redisFree(client); }
