"id","count","volume","centroid_0","centroid_1","centroid_2","begin_0","begin_1","begin_2","end_0","end_1","end_2","on_border","border_area","intensity_mean","intensity_std","intensity_min","intensity_max"
4825892087074085057,4,0,0,0,0,4,1,3,8,2,6,true,0,30.75,16.20763708873073,6,48
5506189730829267300,4,0,0,0,0,4,1,3,8,2,6,true,0,-25.5,11.672617529928752,-44,-15
15019813854969311518,4,0,0,0,0,5,1,3,7,2,6,true,0,-12.75,23.826193569263218,-39,22
