-- Accounts of one tree, deposits, and what is kept beside orders.

local verbs = {}

local function make(account, id, parent)
  redis.call('HSET', account, 'id', id, 'parent', parent, 'budget', '', 'period', 'total', 'default', '',
    'start', '0', 'posted', '0', 'pending', '0', 'deposits', '0', 'spent', '0')
end

-- KEYS: 1 rows, 2 seq, 3 house, 4 suspense, 5 the account, 6 its parent if it has one
-- ARGV: 5 id, 6 budget, 7 period, 8 default, 9 detail, 10 "new" = only if it is not there, else ""
function verbs.put()
  local account, parent = KEYS[5], ''
  if KEYS[6] then
    parent = redis.call('HGET', KEYS[6], 'id')
    if not parent then return { 'orphan' } end
  end
  local is = redis.call('HMGET', account, 'parent', 'period')
  if is[1] and ARGV[10] == 'new' then return { 'put' } end
  if is[1] and is[1] ~= parent then return { 'bound', is[1] } end
  if redis.call('EXISTS', KEYS[3]) == 0 then
    make(KEYS[3], '~house', '')
    make(KEYS[4], '~suspense', '')
  end
  if not is[1] then
    make(account, ARGV[5], parent)
  elseif is[2] ~= ARGV[7] then
    redis.call('HSET', account, 'posted', '0', 'deposits', '0', 'start', '0')
  end
  redis.call('HSET', account, 'budget', ARGV[6], 'period', ARGV[7], 'default', ARGV[8])
  write(KEYS[1], KEYS[2], 'account', account, { detail = ARGV[9] })
  return { 'put' }
end

-- KEYS: 1 rows, 2 seq, 3 references, 4 the account
-- ARGV: 5 nusd, 6 reference, 7 the most that budget and deposits may be together
function verbs.deposit()
  local account, nusd = KEYS[4], ARGV[5]
  local budget = redis.call('HGET', account, 'budget')
  if not budget then return { 'unknown' } end
  if budget == '' then return { 'unlimited' } end
  local before = redis.call('HGET', KEYS[3], ARGV[6])
  if before then return { 'before', before } end
  local is = redis.call('HMGET', account, 'period', 'start', 'deposits')
  local deposits = tonumber(is[3])
  if tonumber(start_of(is[1])) > tonumber(is[2]) then deposits = 0 end
  if tonumber(budget) + deposits + tonumber(nusd) > tonumber(ARGV[7]) then return { 'above' } end
  roll(account)
  redis.call('HINCRBY', account, 'deposits', nusd)
  redis.call('HSET', KEYS[3], ARGV[6], nusd)
  write(KEYS[1], KEYS[2], 'deposit', account, { nusd = nusd, reference = ARGV[6] })
  return { 'deposited' }
end

-- KEYS: 1 hold, or what stands for one, 2 order
-- ARGV: 5 account, 6 order, 7 response, 8 history, 9 name of an order that never had a hold
function verbs.annotate()
  if redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('HSET', KEYS[1], 'rid', '', 'account', ARGV[5], 'order', ARGV[6], 'hold', '0', 'until', '0',
      'state', 'voided', 'digests', '{}', 'relayed', '0', 'posted', '0', 'house', '0', 'suspense', '0')
    redis.call('PEXPIRE', KEYS[1], KEEP_MS)
    redis.call('SET', KEYS[2], '-' .. ARGV[9], 'PX', KEEP_MS, 'NX')
  end
  if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'response', ARGV[7]) end
  if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'history', ARGV[8]) end
  return { 'noted' }
end

-- KEYS: 1 rows, 2 seq, 3 base, 4.. accounts. All there is to recount, at one instant.
function verbs.standing()
  local sums = {}
  for i = 4, #KEYS do
    sums[#sums + 1] = redis.call('HMGET', KEYS[i], 'id', 'posted', 'pending', 'deposits', 'spent')
  end
  return { redis.call('HGET', KEYS[3], 'body'), redis.call('XRANGE', KEYS[1], '-', '+'), sums }
end

-- KEYS: 1 rows, 2 base. ARGV: 5 the last row that is safe elsewhere, 6 how the accounts stood after it.
-- One that comes late, behind another archiver, changes nothing.
function verbs.trim()
  local seq = tonumber(ARGV[5])
  if seq <= tonumber(redis.call('HGET', KEYS[2], 'seq') or '0') then return 0 end
  redis.call('HSET', KEYS[2], 'seq', ARGV[5], 'body', ARGV[6])
  return redis.call('XTRIM', KEYS[1], 'MINID', text(seq + 1))
end

return verbs[ARGV[1]]()
