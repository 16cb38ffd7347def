-- How many connections (KEYS[1], the entries) and users (KEYS[2]).
return { redis.call('HLEN', KEYS[1]), redis.call('HLEN', KEYS[2]) }
