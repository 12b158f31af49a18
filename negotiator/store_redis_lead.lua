-- One leader per role, with a token that grows with every change of leader.
-- KEYS: 1 role. ARGV: 1 holder, 2 now, 3 until

local is = redis.call('HMGET', KEYS[1], 'holder', 'until', 'token')
if is[1] ~= ARGV[1] then
  if is[2] and tonumber(is[2]) > tonumber(ARGV[2]) then return false end
  redis.call('HINCRBY', KEYS[1], 'token', 1)
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', ARGV[3])
return redis.call('HGET', KEYS[1], 'token')
