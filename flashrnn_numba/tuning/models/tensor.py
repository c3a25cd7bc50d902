def choose_tiling(cell,dtype,B,H,D,device):
    return None
